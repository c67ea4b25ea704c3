# moejax for NVIDIA GPUs. CUDA comes with JAX; the host needs the driver and the
# NVIDIA container toolkit. From the repository's root:
#   docker build --file tpu_scripts/gpu.Dockerfile --tag moejax-gpu .
FROM python:3.12-slim
WORKDIR /moejax
ENV PYTHONUNBUFFERED=1
# Packages before code: a change of code leaves their layer as it is.
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY moejax/__init__.py moejax/__init__.py
RUN pip install --no-cache-dir --editable '.[gpu,seqio]'
COPY moejax moejax
COPY configs configs
CMD ["python", "-m", "moejax.main", "--help"]
