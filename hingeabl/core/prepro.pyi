from prepro import *
