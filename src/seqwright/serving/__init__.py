"""The endpoint: requests in three formats, batched together, answered over HTTP."""
