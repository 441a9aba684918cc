# One image for every command. From the top of a checkout:
#
#   docker build --tag=jax-prompt .                                   # CPU
#   docker build --tag=jax-prompt:cuda --build-arg ACCELERATOR=cuda . # NVIDIA GPU
#   docker build --tag=jax-prompt:tpu --build-arg ACCELERATOR=tpu .   # Cloud TPU VM
#   docker run --rm jax-prompt --help
#
# docs/howto/serving.md has the whole `docker run` of a server: no root, nothing writable but a cache.
ARG PYTHON_VERSION=3.11

FROM docker.io/library/python:${PYTHON_VERSION}-slim AS build
ARG ACCELERATOR=
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY jax_prompt jax_prompt
COPY gin gin
RUN python -m venv /venv \
 && /venv/bin/python -m pip install --no-cache-dir --constraint constraints.txt ".[serve${ACCELERATOR:+,$ACCELERATOR}]" \
 && /venv/bin/jax-prompt --help >/dev/null

FROM docker.io/library/python:${PYTHON_VERSION}-slim
COPY --from=build /venv /venv
RUN useradd --system --uid 10001 jax-prompt && mkdir /cache && chown jax-prompt /cache
# Compiled programs and what comes from the Hugging Face hub; keep it, and starts are quick.
VOLUME /cache
ENV PATH=/venv/bin:$PATH XDG_CACHE_HOME=/cache HF_HOME=/cache/huggingface MPLCONFIGDIR=/tmp \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1
USER 10001
WORKDIR /tmp
EXPOSE 8000
# Of a server: compiling its programs may take minutes. Other commands have no health to ask for.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10m CMD \
  ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
# Exec form, so that SIGTERM arrives.
ENTRYPOINT ["jax-prompt"]
CMD ["--help"]
