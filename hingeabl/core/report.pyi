from report import *
