"""The transformers of the picture book under the microscope: maps by layer, and guidance at the same mean scale."""
