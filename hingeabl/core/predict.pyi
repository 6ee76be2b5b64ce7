from predict import *
