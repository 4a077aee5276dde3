# One image for scheduler, worker, job and operator: docker build -t pipelines:0.1.0 .
# Python has to be of the same minor version as where `pipelines` is called from (docs/kubernetes.md).
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS libraries
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/pipelines
COPY deploy/requirements.lock /build/
# What packages bring for their own tests, and C++ headers, are a fifth of it; nothing imports them.
RUN /opt/pipelines/bin/pip install --quiet --require-hashes --only-binary :all: -r /build/requirements.lock \
    && find /opt/pipelines -depth -type d -name tests \
      \( -path '*/pandas/*' -o -path '*/numpy/*' -o -path '*/pyarrow/*' -o -path '*/distributed/*' -o -path '*/dask/*' \
      -o -path '*/scipy/*' -o -path '*/sklearn/*' -o -path '*/numba/*' -o -path '*/matplotlib/*' \) \
      -exec rm -rf {} + \
    && rm -rf /opt/pipelines/lib/python3*/site-packages/pyarrow/include \
    # dask-kubernetes asks for them and imports neither
    && /opt/pipelines/bin/pip uninstall --quiet --yes kubernetes kubernetes-asyncio \
    && /opt/pipelines/bin/pip uninstall --quiet --yes pip setuptools

FROM python:${PYTHON}-slim AS wheel
RUN python3 -m venv /tool && /tool/bin/pip install --quiet "hatchling>=1.26"
COPY pyproject.toml README.md LICENSE /build/
COPY pipelines /build/pipelines
RUN /tool/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /dist /build \
    && /tool/bin/pip install --quiet --no-deps --target /wheel /dist/*.whl && rm -rf /wheel/bin

FROM python:${PYTHON}-slim
ARG PYTHON
# A project stands in the pods under the path that it has where it was submitted, which may be below /root.
RUN chmod 755 /root
COPY --from=libraries /opt/pipelines /opt/pipelines
COPY --from=wheel /wheel /opt/pipelines/lib/python${PYTHON}/site-packages
ENV PATH=/opt/pipelines/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp USER=pipelines
WORKDIR /tmp
USER 10001:10001
# runs its arguments in its own place: signals reach them
ENTRYPOINT ["/usr/bin/env"]
CMD ["python", "-m", "pipelines", "--help"]
