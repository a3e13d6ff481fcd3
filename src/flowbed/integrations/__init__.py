"""Classes of LangChain, LlamaIndex and Haystack over a project: one module for each, which imports that framework."""
