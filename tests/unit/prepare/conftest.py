"""Rows, data sets, a byte-level tokenizer and a local hub for the tests of the prepare stage."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.loading import compose
from pipeline.prepare import prepare
from pipeline.records import PROMPT_SCHEMA
from pipeline.storage.artifacts import ArtifactStore

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '\n</think>\n\n' }}{% endif %}{% endif %}"
)


@pytest.fixture
def make_row():
    def make(row_id=1, **changes):
        row = {
            "instruction": "Вопрос: {question}\nA. {option_a}",
            "inputs": {"question": f"Вопрос номер {row_id}?", "option_a": "да"},
            "outputs": "A",
            "meta": {"id": row_id, "categories": {"topic": "почва"}},
        }
        return {key: value for key, value in {**row, **changes}.items() if value is not ...}

    return make


@pytest.fixture
def write_rows():
    """Write rows in the format of the file's suffix; create its parent directories."""

    def write(path, rows):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif path.suffix == ".json":
            path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
        else:
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def dataset(tmp_path, make_row, write_rows):
    """A directory with one row in train.jsonl and two in test.jsonl."""
    write_rows(tmp_path / "set" / "train.jsonl", [make_row(1)])
    write_rows(tmp_path / "set" / "test.jsonl", [make_row(2, outputs=""), make_row(3, outputs="")])
    return tmp_path / "set"


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory):
    """A model directory with a tokenizer of one token per byte and a chat template, without weights."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    # Like the tokenizers of many models, it begins a text with a special token unless add_special_tokens is false.
    begin = ("<|im_start|>", backend.token_to_id("<|im_start|>"))
    backend.post_processor = processors.TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    directory = tmp_path_factory.mktemp("model")
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def arguments(dataset, tokenizer_dir, tmp_path):
    """The command-line arguments of one task on `dataset`; later arguments override earlier ones."""
    conf = tmp_path / "one.yaml"
    conf.write_text(
        "tasks:\n  agro: {dataset: somewhere, domain: agriculture}\n"
        "generation: {max_gen_toks: 100}\nmodel: {context_size: 1000}\n"
    )
    return [f"conf={conf}", f"tasks.agro.dataset={dataset}", f"model.path={tokenizer_dir}"]


@pytest.fixture
def endpoint():
    """The arguments that leave rendering to a server."""
    return ["engine.kind=endpoint", "engine.endpoint.base_url=http://localhost:1/v1", "model.path=null"]


@pytest.fixture
def run(tmp_path):
    return ArtifactStore.open(str(tmp_path / "run"))


@pytest.fixture
def prepared(arguments, run):
    """Prepare with `arguments` and overrides; return the rows, train first, in the order of the files."""

    def go(*overrides, **kwargs):
        prepare(compose([*arguments, *overrides]), run, **kwargs)
        rows = run.artifact("prompts", PROMPT_SCHEMA).dataset().to_table().to_pylist()
        return sorted(rows, key=lambda row: row["split"] != "train")

    return go


class _Hub(BaseHTTPRequestHandler):
    """Serves the requests of the hub's client: a revision, the list of its files, the files."""

    commit = "a1" * 20

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.paths.append(path)
        if "dropped" in path:
            self.close_connection = True
            return None
        refusals = {
            "gated": (403, "GatedRepo"),
            "unknown": (401, "RepoNotFound"),
            "/revision/nope": (404, "RevisionNotFound"),
        }
        for part, (code, name) in refusals.items():
            if part in path:
                return self._answer(code, b"", {"X-Error-Code": name, "X-Error-Message": name})
        files = self.server.files
        if "/revision/" in path:
            siblings = [{"rfilename": name} for name in files]
            return self._answer(200, json.dumps({"id": "o/n", "sha": self.commit, "siblings": siblings}).encode(), {})
        if "/tree/" in path:
            tree = [{"type": "file", "path": name, "size": len(files[name]), "oid": name} for name in files]
            return self._answer(200, json.dumps(tree).encode(), {})
        for name, data in files.items():
            if path.endswith(f"/{name}"):
                tag = hashlib.sha1(data).hexdigest()
                return self._answer(200, data, {"ETag": f'"{tag}"', "X-Repo-Commit": self.commit})
        return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def _answer(self, code, data, headers):
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A local hub: set `files`, read the requested `paths`, call `stop`.

    The hub's client reads its address and cache from the environment at import; the fixture patches its constants.
    """
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.files, server.paths, server.commit = {}, [], _Hub.commit
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def stop():
        server.shutdown()
        thread.join()
        server.server_close()

    server.stop = stop
    yield server
    stop()
