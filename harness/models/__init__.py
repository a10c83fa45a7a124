"""From the name of a model to its graphs: types, quantisation, training, phases of language models. Factories are workloads."""
