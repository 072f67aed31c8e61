"""Where attacks run: scoring on replicas, the Ray pipeline, and the record of what is done."""
