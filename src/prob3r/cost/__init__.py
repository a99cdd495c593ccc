"""Cost: the memory and the operations of a job, known before the job runs."""
