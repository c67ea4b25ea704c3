"""Measurements of speed and memory; not installed. Each is a command.

  python -m benchmarks.step              a training step, part by part
  python -m benchmarks.kernels           the implementations in each table
  python -m benchmarks.layer             experts over a dense layer
  python -m benchmarks.experts           8 to 256 experts, same active width
  python -m benchmarks.routers           every router over plain top-k
  python -m benchmarks.expert_parallel   bytes that travel between devices
  python -m benchmarks.text              long documents into rows
  python -m benchmarks.trace             tracing over plain evaluation
  python -m benchmarks.compress          calibration over plain evaluation
  python -m benchmarks.images            loading images, beside training
  python -m benchmarks.data              packing, reading, memory, start-up
  python -m benchmarks.decode            writing tokens, beside transformers
  python -m benchmarks.choice            multiple-choice scoring over lm_eval's
  python -m benchmarks.accelerator       all that a GPU or TPU is to show

All of them answer --help; docs/benchmarks.md has figures. All sides of a
comparison run in turn, because the machine may not be idle: only ratios mean
something.

To add one, write benchmarks/NAME.py with a `main(argv)`, whose docstring says
which ratio it prints, and give it a line above and a test. Most need only
`standard` (the shape that all measure, and the flags that all have) and
`timing` (functions timed in turn).
"""
