"""One file a verb: flags in, one call, exit status out."""
