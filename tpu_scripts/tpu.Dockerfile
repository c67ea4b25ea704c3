# moejax for TPUs. Built by tpu_scripts/image.sh, from the repository's root:
#   docker build --file tpu_scripts/tpu.Dockerfile --tag moejax-tpu .
FROM python:3.12-slim
WORKDIR /moejax
ENV PYTHONUNBUFFERED=1
# Packages before code: a change of code leaves their layer as it is.
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY moejax/__init__.py moejax/__init__.py
RUN pip install --no-cache-dir --editable '.[tpu,seqio]'
COPY moejax moejax
COPY configs configs
CMD ["python", "-m", "moejax.main", "--help"]
