"""From the name of a model to its graphs: types, quantization, training, phases of language models. Factories are workloads."""
