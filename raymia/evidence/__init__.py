"""From a folder of works to evidence."""
