# SPDX-License-Identifier: Apache-2.0
"""The one exception that means "the user can fix this"."""


class GeolocError(ValueError):
    """A mistake in input or set-up, in one sentence: the value, the limit, the remedy.

    The command line prints it as one line and exits with 2; a node turns it into a diagnostic.
    """
