#include "vmm/libvirt/qemu/qemu_domain.h"

#include <cstdint>
#include <pugixml.hpp>
#include <random>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace quire {
namespace {

using Node = pugi::xml_node;

// XML 1.0 has no other characters below the space, however they are written.
std::string Writable(absl::string_view text) {
  std::string writable;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= ' ' || c == '\t' || c == '\n') writable.push_back(c);
  }
  return writable;
}

Node Add(Node& parent, const char* name, absl::string_view text = "") {
  Node node = parent.append_child(name);
  if (!text.empty()) node.text().set(Writable(text).c_str());
  return node;
}

void Set(Node& node, const char* name, absl::string_view value) {
  node.append_attribute(name).set_value(Writable(value).c_str());
}

void AddSize(Node& parent, const char* name, ByteCount size) {
  Node node = Add(parent, name, absl::StrCat(size.in_bytes() / 1024));
  Set(node, "unit", "KiB");
}

void AddMemory(Node& root, const QemuDomain& domain) {
  AddSize(root, "memory", domain.memory);
  AddSize(root, "currentMemory", domain.memory - domain.balloon);
  if (domain.merge) return;  // as libvirt has it unless it is told otherwise
  Node backing = Add(root, "memoryBacking");
  Add(backing, "nosharepages");
}

void AddBoot(Node& root, const QemuDomain& domain) {
  Node os = Add(root, "os");
  Node type = Add(os, "type", "hvm");
  Set(type, "arch", "x86_64");
  Set(type, "machine", "q35");
  Add(os, "kernel", domain.kernel);
  if (domain.initrd.has_value()) Add(os, "initrd", *domain.initrd);
  Add(os, "cmdline", domain.command_line);
  Node features = Add(root, "features");
  Add(features, "acpi");
  Add(features, "apic");
}

void AddConsole(Node& devices, const std::string& path) {
  Node serial = Add(devices, "serial");
  Set(serial, "type", "file");
  Node source = Add(serial, "source");
  Set(source, "path", path);
  Node target = Add(serial, "target");
  Set(target, "port", "0");
}

// As Quire's own guests have them. Of what libvirt adds by itself there is no more than must be.
void AddDevices(Node& root, const QemuDomain& domain) {
  Node devices = Add(root, "devices");
  Node usb = Add(devices, "controller");
  Set(usb, "type", "usb");
  Set(usb, "model", "none");
  AddConsole(devices, domain.console);
  Node rng = Add(devices, "rng");
  Set(rng, "model", "virtio");
  Node backend = Add(rng, "backend", "/dev/urandom");
  Set(backend, "model", "random");
  Node balloon = Add(devices, "memballoon");
  Set(balloon, "model", "virtio");
  Set(balloon, "freePageReporting", "on");
  Node statistics = Add(balloon, "stats");
  Set(statistics, "period", "1");
}

}  // namespace

std::string DomainXml(const QemuDomain& domain) {
  pugi::xml_document document;
  Node root = document.append_child("domain");
  Set(root, "type", domain.kvm ? "kvm" : "qemu");
  Add(root, "name", domain.name);
  Add(root, "uuid", domain.uuid);
  AddMemory(root, domain);
  Add(root, "vcpu", absl::StrCat(domain.vcpus));
  AddBoot(root, domain);
  if (domain.kvm) {
    Node cpu = Add(root, "cpu");
    Set(cpu, "mode", "host-passthrough");
  }
  // A guest that ends, however it does, is over, as one of Quire's is.
  for (const char* event : {"on_poweroff", "on_reboot", "on_crash"}) Add(root, event, "destroy");
  AddDevices(root, domain);
  std::ostringstream text;
  document.save(text, "  ", pugi::format_default | pugi::format_no_declaration);
  return text.str();
}

std::string NewUuid() {
  std::random_device random;
  constexpr uint32_t kVersion = 0x4000, kVariant = 0x80000000;
  const uint32_t a = random(), b = random(), c = random(), d = random();
  return absl::StrFormat("%08x-%04x-%04x-%04x-%04x%08x", a, b >> 16, (b & 0xfff) | kVersion,
                         ((c & 0x3fffffff) | kVariant) >> 16, c & 0xffff, d);
}

}  // namespace quire
