# The service: serving/ and the artifacts of the pipeline, no training library.
#   docker build -t dirtycar .                              for NVIDIA GPUs (falls back to the CPU)
#   docker build -t dirtycar --build-arg DEVICE=cpu .       for CPUs, several GB smaller
# Add --build-arg EXTRAS="batch sign" for one or more of: batch (Parquet and object stores), ray (serving.batch on Ray),
# kuberay (on Ray under KubeRay), sign (VERIFY_KEY).
# Add --build-arg GIT_COMMIT=$(git rev-parse HEAD) to see it in /model, and --build-arg PYTHON=NAME@sha256:DIGEST for a base
# that no one can replace: `docker buildx imagetools inspect NAME` tells the digest of today.

ARG PYTHON=python:3.11.14-slim-bookworm

FROM ${PYTHON} AS build
ARG DEVICE=gpu
ARG EXTRAS=
COPY serving/requirements*.txt constraints.txt /build/
WORKDIR /build
RUN python -m venv /opt/venv
# The CPU variant is the same release of ONNX Runtime without CUDA; the GPU one brings CUDA and cuDNN as packages.
RUN if [ "$DEVICE" = cpu ]; then \
      sed -i 's/^onnxruntime-gpu==/onnxruntime==/' requirements.txt constraints.txt; \
    else \
      sed -i 's/^onnxruntime-gpu==/onnxruntime-gpu[cuda,cudnn]==/' requirements.txt; \
    fi
RUN /opt/venv/bin/pip install --no-cache-dir -r requirements.txt -c constraints.txt \
      ${EXTRAS:+$(printf -- '-r requirements-%s.txt ' $EXTRAS)}
# KubeRay starts login shells, whose /etc/profile forgets PATH.
RUN echo 'PATH=/opt/venv/bin:$PATH' > /opt/venv/profile.sh

FROM ${PYTHON}
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/venv/profile.sh /etc/profile.d/venv.sh
WORKDIR /app
COPY serving/ serving/
COPY artifacts/best.onnx* artifacts/
ARG GIT_COMMIT=
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOST=0.0.0.0 \
    PORT=8000 \
    HEALTH_PORT=8001 \
    REQUIRE_CERTIFIED=1 \
    GIT_COMMIT=${GIT_COMMIT}
USER 10001
EXPOSE 8000
# Only /tmp is written to: run with --read-only --tmpfs /tmp.
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['HEALTH_PORT']}/readyz\", timeout=8)"]
CMD ["gunicorn", "-c", "serving/gunicorn.conf.py", "serving.app:create_app()"]
