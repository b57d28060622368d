# SPDX-License-Identifier: Apache-2.0
"""Other methods behind the interface of an engine, to compare with."""
