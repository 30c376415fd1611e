# The tag says which Python; the digest is the multi-platform index that others' public files pin it to.
ARG BASE=python:3.13.7-slim-bookworm@sha256:adafcc17694d715c905b4c7bebd96907a1fd5cf183395f0ebc4d3428bd22d92d

FROM ${BASE} AS build
WORKDIR /build
COPY requirements.lock ./
RUN python -m venv /opt/hermes \
 && /opt/hermes/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/hermes/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
 && /opt/hermes/bin/pip uninstall --yes flit_core pip

FROM ${BASE}
COPY --from=build /opt/hermes /opt/hermes
# by number, so that Kubernetes can see that it is not root; the volume is born with its owner
RUN install -d -o 10001 -g 10001 -m 700 /var/lib/hermes
ENV PATH=/opt/hermes/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HERMES_SERVER__HOST=0.0.0.0 \
    HERMES_SERVER__STATE_DIR=/var/lib/hermes
USER 10001:10001
VOLUME /var/lib/hermes
EXPOSE 4000
# drains; give it more than server.drain_timeout_s: docker run --stop-timeout 40
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["python", "-c", "import http.client, os, sys; \
port = os.environ.get('HERMES_SERVER__PORT') or os.environ.get('PORT') or 4000; \
c = http.client.HTTPConnection('127.0.0.1', int(port), timeout=2); \
c.request('GET', '/livez'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["hermes"]
CMD ["serve"]
