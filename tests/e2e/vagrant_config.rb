# frozen_string_literal: true

# What Vagrant makes of the Vagrantfile in ARGV[0], as JSON; each trigger is fired with a store that only notes.

require "vagrant"
require "json"

class NotingStore
  attr_reader :fetched

  def initialize
    @fetched = []
  end

  def communicate = self

  def download(from, to)
    @fetched << [from, to]
  end
end

def described(config, provider)
  config.finalize!
  settings = config.vm.get_provider_config(provider)
  store = NotingStore.new
  config.trigger.after_triggers.each { |trigger| trigger.ruby_block.call(nil, store) }
  {
    box: config.vm.box,
    hostname: config.vm.hostname,
    addresses: config.vm.networks.filter_map { |_, options| options[:ip] },
    folders: config.vm.synced_folders.reject { |_, folder| folder[:disabled] }
                   .to_h { |guest, folder| [guest, { host: folder[:hostpath], type: folder[:type] }] },
    provisioners: config.vm.provisioners.map { |one| [one.config.path, *one.config.args] },
    triggers: config.trigger.after_triggers.map(&:command),
    fetched: store.fetched,
    customizations: settings.customizations.map { |_, words| words }
  }
end

environment = Vagrant::Environment.new(cwd: ARGV[0], ui_class: Vagrant::UI::Silent)
machines = environment.vagrantfile.machine_names.to_h do |name|
  [name, described(environment.vagrantfile.machine_config(name, :virtualbox, nil, nil, false)[:config], :virtualbox)]
end
puts JSON.generate({ primary: environment.vagrantfile.primary_machine_name, machines: machines })
