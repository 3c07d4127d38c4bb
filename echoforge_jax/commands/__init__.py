"""One file a verb: flags in, one call, exit status out."""

import argparse

# Of the verbs that take a run.
STEP_HELP = 'of a run: latest, best (of the validation score that training kept one for) or a '
STEP_HELP += 'number of updates (default: latest)'


def new_parser(verb: str, text: str, **options) -> argparse.ArgumentParser:
  """Returns the parser of a verb; a text or epilog of several lines keeps its lines."""
  keeps_lines = '\n' in text + options.get('epilog', '')
  return argparse.ArgumentParser(
    prog=f'echoforge {verb}',
    description=text,
    allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter if keeps_lines else argparse.HelpFormatter,
    **options,
  )
