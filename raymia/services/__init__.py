"""What makes images on request: hosted models, and the local pipeline that stands in for one."""
