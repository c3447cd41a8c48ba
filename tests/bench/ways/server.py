"""vLLM's API server on loopback, over HTTP: one request at a time, or 64 at once.

The client is as light as possible (aiohttp, persistent connections, token ids in), so that the server is measured. One
request at a time is how a harness at batch size 1 works; it would take too long for all rows, so it gets a few other
questions with the same distribution of lengths.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
from bench.child import check, sampling, write_rows
from bench.questions import read
from bench.settings import engine_arguments

from pipeline.config.schema import Config

START_LIMIT_S = 300
AT_ONCE = {"server_1": 1, "server_64": 64}


class Server:
    def __init__(self, config: Config) -> None:
        began = time.monotonic()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
        command += ["--port", str(self._port), "--disable-log-stats", "--disable-uvicorn-access-log"]
        command += ["--served-model-name", "bench", *_flags(engine_arguments(config))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, env={**os.environ, "VLLM_NO_USAGE_STATS": "1"}
        )
        self._wait()
        self.engine_start_s = time.monotonic() - began

    def run(self, way: str, directory: Path) -> dict[str, Any]:
        at_once = AT_ONCE[way]
        questions, warm_up = read(directory / "questions.parquet"), read(directory / "warm_up.parquet")
        if at_once == 1:
            questions, warm_up = read(directory / "alone.parquet"), warm_up[:4]
        began, seconds, rows = asyncio.run(self._measure(way, directory, warm_up, questions, at_once))
        check(way, {row["name"]: row["num_tokens"] for row in questions}, {name: count for name, _, count in rows})
        num_tokens = sum(count for _, _, count in rows)
        return {"began": began, "seconds": seconds, "num_rows": len(rows), "num_tokens": num_tokens}

    async def _measure(
        self, way: str, directory: Path, warm_up: list[dict[str, Any]], questions: list[dict[str, Any]], at_once: int
    ) -> tuple[float, float, list[tuple[str, str, int]]]:
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=at_once)) as session:
            await self._generate(session, warm_up, at_once)
            began = time.monotonic()
            rows = await self._generate(session, questions, at_once)
            write_rows(directory, way, rows)
            return began, time.monotonic() - began, rows

    async def _generate(
        self, session: aiohttp.ClientSession, questions: list[dict[str, Any]], at_once: int
    ) -> list[tuple[str, str, int]]:
        semaphore = asyncio.Semaphore(at_once)
        url = f"http://127.0.0.1:{self._port}/v1/completions"

        async def one(row: dict[str, Any]) -> tuple[str, str, int]:
            body = {"model": "bench", "prompt": row["prompt_token_ids"], **sampling(row["num_tokens"])}
            async with semaphore, session.post(url, json=body) as response:
                answer = await response.json()
                if response.status != 200:
                    raise RuntimeError(f"the server says {response.status}: {answer}")
            return row["name"], answer["choices"][0]["text"], answer["usage"]["completion_tokens"]

        return await asyncio.gather(*(one(row) for row in questions))

    def _wait(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError("vLLM's API server does not start")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.25)
        self.close()
        raise TimeoutError(f"vLLM's API server is not ready after {START_LIMIT_S} s")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=60)


def _flags(arguments: dict[str, Any]) -> list[str]:
    flags = []
    for name, value in arguments.items():
        flag = f"--{name.replace('_', '-')}"
        flags += [flag if value else f"--no-{flag[2:]}"] if isinstance(value, bool) else [flag, str(value)]
    return flags


def start(config: Config) -> Server:
    return Server(config)
