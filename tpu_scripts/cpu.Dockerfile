# moejax for CPUs: to try it, to pack text, to analyse runs. From the
# repository's root:
#   docker build --file tpu_scripts/cpu.Dockerfile --tag moejax-cpu .
#   docker run --rm --volume "$PWD/runs:/moejax/runs" moejax-cpu \
#     moejax train --config=tiny --workdir=runs/tiny
FROM python:3.13-slim
WORKDIR /moejax
ENV PYTHONUNBUFFERED=1
# Packages before code: a change of code leaves their layer as it is.
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY moejax/__init__.py moejax/__init__.py
RUN pip install --no-cache-dir --editable '.[seqio]'
COPY moejax moejax
COPY configs configs
CMD ["moejax", "--help"]
