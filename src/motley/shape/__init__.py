"""What a model costs, without its weights: quantised formats, tensor lists, bytes, FLOPs and KV bytes per token."""
