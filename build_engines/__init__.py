"""From a checkpoint's files to engines that Triton serves."""
