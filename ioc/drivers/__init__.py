"""The hardware interface and the drivers that come with temline.

`protocol` says what the IOC asks of hardware; docs/writing-a-driver.md how to answer.
"""
