"""The quantized base model, its adapters and the verdict that is read from it."""
