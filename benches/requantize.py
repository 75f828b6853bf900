"""Requantise a GGUF file to Q4_0 with llama.cpp, for a comparison on the format it repacks into a fast layout.

    requantize.py MODEL.gguf OUT.gguf
"""
import sys

import llama_cpp


def main(source, destination):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
    params.allow_requantize = True
    if llama_cpp.llama_model_quantize(source.encode(), destination.encode(), params) != 0:
        sys.exit(f"llama.cpp could not requantise {source}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
