"""Classifiers in the formats of other runtimes: conversion, quantisation, comparison, bundles."""
