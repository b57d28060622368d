# SPDX-License-Identifier: Apache-2.0
"""What several commands share: arguments, output, recordings, and nodes as processes."""
