# One image for every role: `docker run iris api`, `… worker`, `… dispatcher`, `… migrate`.
FROM rust:1.95-bookworm AS builder
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked -p iris \
    && install -D target/release/iris /out/iris

FROM debian:bookworm-slim
# Certificates for mail servers and webhook endpoints; the time zones are in the binary.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin iris
COPY --from=builder /out/iris /usr/local/bin/iris
COPY LICENSE LICENSE-MIT LICENSE-APACHE /usr/share/doc/iris/
USER iris
ENV IRIS_API_ADDR=0.0.0.0:8080 \
    IRIS_ADMIN_ADDR=0.0.0.0:9090
EXPOSE 8080 9090
# Every role drains on SIGTERM.
STOPSIGNAL SIGTERM
ENTRYPOINT ["iris"]
