# frozen_string_literal: true

# Reads settings.yaml, and refuses what is unknown, missing or cannot be; install-node checks the networks.

require "yaml"

module Lab
  MODES = %w[iptables ipvs nftables auto].freeze
  OVERLAYS = %w[vxlan udp host-gw].freeze
  CIDR = %r{\A(\d{1,3}\.){3}\d{1,3}/\d{1,2}\z}.freeze
  SIZE = ->(value) { value.is_a?(Hash) && value.keys.sort == %w[cpus memory] && value.values.all?(Integer) }
  CHECKS = {
    "nodes" => [->(value) { value.is_a?(Integer) && value.between?(1, 100) }, "a number from 1 to 100"],
    "box" => [->(value) { value.is_a?(String) && !value.empty? }, "the name of a box"],
    "network" => [->(value) { value.to_s.match?(/\A\d{1,3}\.\d{1,3}\.\d{1,3}\z/) }, "three bytes such as 192.168.56"],
    "store" => [SIZE, "{cpus: NUMBER, memory: MIB}"],
    "node" => [SIZE, "{cpus: NUMBER, memory: MIB}"],
    "mode" => [->(value) { MODES.include?(value) }, "one of #{MODES.join(", ")}"],
    "overlay" => [->(value) { OVERLAYS.include?(value) }, "one of #{OVERLAYS.join(", ")}"],
    "domain" => [->(value) { value.to_s.match?(/\A[a-z0-9]([a-z0-9.-]*[a-z0-9])?\z/) }, "a DNS domain"],
    "pod_network" => [->(value) { value.to_s.match?(CIDR) }, "a network such as 10.244.0.0/16"],
    "service_network" => [->(value) { value.to_s.match?(CIDR) }, "a network such as 10.96.0.0/12"]
  }.freeze

  # One machine of the lab.
  Machine = Struct.new(:name, :address, :size, keyword_init: true)

  # What settings.yaml says; raises ArgumentError with every error in it.
  class Settings
    def initialize(path)
      @values = YAML.safe_load(File.read(path)) || {}
      raise ArgumentError, "#{path}: not a mapping" unless @values.is_a?(Hash)

      errors = (@values.keys - CHECKS.keys).map { |key| "#{key}: unknown" }
      CHECKS.each { |key, (check, what)| errors << "#{key}: must be #{what}" unless check.call(@values[key]) }
      raise ArgumentError, "#{path}: #{errors.join("; ")}" unless errors.empty?
    end

    def [](key) = @values.fetch(key)

    def store = Machine.new(name: "store", address: "#{self["network"]}.10", size: self["store"])

    def nodes
      (1..self["nodes"]).map do |number|
        Machine.new(name: "node#{number}", address: "#{self["network"]}.#{10 + number}", size: self["node"])
      end
    end

    # What install-node is told on the store.
    def flags
      ["--mode", self["mode"], "--overlay", self["overlay"], "--domain", self["domain"],
       "--pod-network", self["pod_network"], "--service-network", self["service_network"]]
    end
  end
end
