# Hermes as a Nomad job, beside an Ollama that Consul or Nomad knows as "ollama". Its keys first:
#   nomad var put nomad/jobs/hermes keys='{"sk-...": {"user": "me", "admin": true}}'
job "hermes" {
  type = "service"

  update {
    max_parallel     = 1
    canary           = 1
    auto_promote     = true
    min_healthy_time = "5s"
  }

  group "hermes" {
    network {
      port "http" { to = 4000 }
    }

    service {
      name     = "hermes"
      port     = "http"
      provider = "nomad"

      check {
        type     = "http"
        path     = "/readyz"
        interval = "5s"
        timeout  = "2s"
      }
    }

    # for the load balancer to forget it, before it is told to stop
    shutdown_delay = "5s"

    task "hermes" {
      driver = "docker"
      # what runs may take 30 s to end (server.drain_timeout_s)
      kill_timeout = "45s"
      kill_signal  = "SIGTERM"

      config {
        image           = "hermes-sidecar:0.1.0"
        ports           = ["http"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        mount {
          type   = "tmpfs"
          target = "/tmp"
        }
      }

      env {
        HERMES_SERVER__STATE_DIR     = "${NOMAD_ALLOC_DIR}/data"
        HERMES_SERVER__ALLOWED_HOSTS = "[\"hermes\"]"
        API_KEYS_JSON_FILE           = "${NOMAD_SECRETS_DIR}/keys.json"
      }

      template {
        destination = "secrets/keys.json"
        data        = "{{ with nomadVar \"nomad/jobs/hermes\" }}{{ .keys }}{{ end }}"
        # Hermes sees by itself that it has changed
        change_mode = "noop"
      }

      template {
        destination = "local/ollama.env"
        env         = true
        data        = "{{ range nomadService \"ollama\" }}OLLAMA_URL=http://{{ .Address }}:{{ .Port }}\n{{ end }}"
      }

      resources {
        cpu    = 500
        memory = 256
      }
    }
  }
}
