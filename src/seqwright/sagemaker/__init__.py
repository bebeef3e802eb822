"""The container contract of Amazon SageMaker: what is where under `/opt/ml`, how to end, what to say."""
