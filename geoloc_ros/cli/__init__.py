# SPDX-License-Identifier: Apache-2.0
"""The `geoloc` command: `main` lists the commands, `shared` holds what several of them use."""
