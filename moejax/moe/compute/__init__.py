"""Expert computation: rows grouped by expert through their matrices."""
