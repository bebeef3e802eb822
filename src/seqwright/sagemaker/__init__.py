"""Amazon SageMaker's contract for containers: the files under `/opt/ml`, and how a job ends."""
