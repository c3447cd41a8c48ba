# Two images, both built by `make image`: `gpu`, for NVIDIA GPUs, and `cpu`, which runs the demo.
# The package holds conf/, the demo's data and the commit, so that it runs from any directory.

FROM python:3.11-slim-bookworm AS base
# Triton compiles its kernels at the first use and takes gcc and the headers of Python for it; libnuma is vLLM's on a
# CPU; KubeRay's probes of a node call wget.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libnuma1 wget \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# A number, so that Kubernetes can tell that it is not root.
RUN useradd --uid 1000 --create-home pipeline && install --directory --owner=1000 /work
WORKDIR /work

FROM base AS wheel
WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY conf conf
COPY data/demo data/demo
COPY pipeline pipeline
# The checkout's commit, `-dirty` at its end if files differ; without it the code is identified by a hash of its files.
ARG PIPELINE_COMMIT=
RUN pip wheel --no-deps --wheel-dir /wheels .

# --no-deps: the files in requirements/ are complete.
FROM base AS cpu
COPY requirements/cpu.txt /tmp/requirements.txt
RUN pip install --no-deps --extra-index-url https://download.pytorch.org/whl/cpu --requirement /tmp/requirements.txt
COPY --from=wheel /wheels /tmp/wheels
RUN pip install --no-deps --no-index /tmp/wheels/*.whl
USER 1000
CMD ["python", "-m", "pipeline.run", "conf=demo"]

FROM base AS gpu
COPY requirements/gpu.txt /tmp/requirements.txt
RUN pip install --no-deps --requirement /tmp/requirements.txt
COPY --from=wheel /wheels /tmp/wheels
RUN pip install --no-deps --no-index /tmp/wheels/*.whl
USER 1000
CMD ["python", "-m", "pipeline"]
