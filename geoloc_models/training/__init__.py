# SPDX-License-Identifier: Apache-2.0
"""One trainer for localizer, retriever and distillation."""
