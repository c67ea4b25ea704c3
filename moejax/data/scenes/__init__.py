"""Drawn scenes: coloured shapes on small images, and conversations about them.

The demo of images learns from them (docs/vision_training.md). Nothing is
downloaded, and every question has one right answer.

  scene.py       what is where, and which scenes are held out
  drawing.py     its pixels
  questions.py   descriptions and questions, with their answers
  sets.py        files of images and conversations
"""
