"""Training configs: get_config(arg) returns a locked ConfigDict."""
