"""What tests share: tiny models, and slow, obvious references."""
