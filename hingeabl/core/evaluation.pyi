from evaluation import *
