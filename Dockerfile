# What mybinder.org builds: JupyterLab with everything installed, at the smoke profile, which fits two small cores.
FROM python:3.11-slim
ARG NB_USER=student
ARG NB_UID=1000
RUN adduser --disabled-password --gecos "" --uid $NB_UID $NB_USER
ENV USER=$NB_USER HOME=/home/$NB_USER VIRTUAL_ENV=/home/$NB_USER/venv
# There is no graphics card, and the packages of PyTorch for one would fill most of the image.
ENV PATH=$VIRTUAL_ENV/bin:$PATH PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu PIP_NO_CACHE_DIR=1 SARNB_PROFILE=smoke
COPY --chown=$NB_USER . $HOME/sarnb
USER $NB_USER
WORKDIR $HOME/sarnb
RUN python -m venv $VIRTUAL_ENV && ./run_all.sh --dry-run && pip install notebook==7.6.5
