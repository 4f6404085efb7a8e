# One image for a workstation, Kubernetes (sweep/templates/rayjob.yaml) and, through Apptainer, SLURM.
#
#   docker build -t fairface-sweep .                          # for NVIDIA GPUs: torch brings CUDA, the host its driver
#   docker build --build-arg TORCH_INDEX=URL -t fairface-sweep .     # without CUDA: URL of torch's builds for the CPU
#   docker run --rm --init --gpus all -v DIR:/data:ro -v "$PWD/runs:/runs" -v fairface-cache:/cache fairface-sweep \
#     --space search_spaces/backbones.yaml --root /data
#
# Everything it writes lies in /runs and /cache (decoded images, drawn faces, ImageNet weights): mount both. It runs as user
# 1000, who must be able to write there.
FROM python:3.12-slim-bookworm

ARG TORCH_INDEX=

# gcc: Triton builds its launchers with it, on GPUs. wget: KubeRay's probes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home fairface \
    && install -d -o fairface -g fairface /app /cache /runs

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY fairface_core fairface_core
COPY sweep sweep
COPY search_spaces search_spaces
# The builds of torch without CUDA are 4 GB smaller and lie in an index of their own: pytorch.org says which.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install ${TORCH_INDEX:+--extra-index-url="$TORCH_INDEX"} .

ENV FAIRFACE_CACHE_DIR=/cache/fairface \
    TORCH_HOME=/cache/torch \
    TRITON_CACHE_DIR=/cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    PYTHONUNBUFFERED=1
VOLUME ["/cache", "/runs"]
USER 1000
ENTRYPOINT ["python", "-m", "sweep.run", "--storage", "/runs"]
CMD ["--space", "search_spaces/quickstart.yaml"]
