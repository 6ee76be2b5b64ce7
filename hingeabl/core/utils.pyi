from utils import *
