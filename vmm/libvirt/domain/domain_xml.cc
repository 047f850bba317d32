#include "vmm/libvirt/domain/domain_xml.h"

#include <cstdint>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "pugixml.hpp"
#include "vmm/libvirt/domain/document.h"
#include "vmm/libvirt/domain/domain_guest.h"
#include "vmm/machine/pc_shape.h"

namespace quire {
namespace {

using pugi::xml_node;

xml_node Add(xml_node parent, const char* name) { return parent.append_child(name); }

void AddText(xml_node parent, const char* name, const std::string& text) { Add(parent, name).text().set(text.c_str()); }

void Set(xml_node node, const char* key, const std::string& value) {
  xml_node target = node;
  (target.attribute(key) ? target.attribute(key) : target.append_attribute(key)).set_value(value.c_str());
}

// libvirt counts in these, and prints them.
void SetKib(xml_node node, ByteCount size) {
  Set(node, "unit", "KiB");
  node.remove_children();
  node.text().set(absl::StrCat(size.in_bytes() >> 10).c_str());
}

// libvirt's paths are absolute.
std::string Absolute(const std::string& path) {
  std::error_code ignored;
  const std::filesystem::path absolute = std::filesystem::absolute(path, ignored);
  return absolute.empty() ? path : absolute.lexically_normal().string();
}

// --- A document of the user's.

// The child of that name; if there is none, a new one after `before`, with the same space between them as before that.
xml_node ChildAfter(xml_node parent, xml_node before, const char* name) {
  if (const xml_node child = parent.child(name)) return child;
  if (!before) return parent.append_child(name);
  const xml_node space = before.previous_sibling();
  const xml_node added = parent.insert_child_after(name, before);
  if (space.type() == pugi::node_pcdata) parent.insert_copy_before(space, added);
  return added;
}

void UpdateCurrentMemory(const RunningGuest& guest, const DomainGuest& described, xml_node root) {
  if (guest.balloon == described.pc.balloon) return;
  SetKib(ChildAfter(root, root.child("memory"), "currentMemory"), guest.memory - guest.balloon);
}

void SetLimits(const RunningGuest& guest, xml_node memtune) {
  for (const char* name : {"hard_limit", "swap_hard_limit"}) memtune.remove_child(name);
  if (!guest.pool_limit.has_value()) return;
  const xml_node hard = memtune.prepend_child("hard_limit");
  SetKib(hard, *guest.pool_limit);
  if (!guest.swap_limit.has_value()) return;
  SetKib(memtune.insert_child_after("swap_hard_limit", hard), *guest.pool_limit + *guest.swap_limit);
}

void UpdateLimits(const RunningGuest& guest, const DomainGuest& described, xml_node root) {
  if (guest.pool_limit == described.pool_limit && guest.swap_limit == described.swap_limit) return;
  const xml_node last = root.child("currentMemory") ? root.child("currentMemory") : root.child("memory");
  SetLimits(guest, ChildAfter(root, last, "memtune"));
}

absl::StatusOr<std::string> Updated(const RunningGuest& guest) {
  const absl::StatusOr<DomainDocument> document = DomainDocument::Parse(guest.name, guest.pc->domain_xml);
  if (!document.ok()) return document.status();
  const absl::StatusOr<DomainReading> reading = ReadDomain(*document);
  if (!reading.ok()) return reading.status();
  const xml_node root = document->root();
  Set(root, "id", absl::StrCat(guest.number + 1));
  UpdateCurrentMemory(guest, reading->guest, root);
  UpdateLimits(guest, reading->guest, root);
  return document->ToXml();
}

// --- One that is made of options.

void AddOs(const RunningGuest& guest, xml_node root) {
  const xml_node os = Add(root, "os");
  AddText(os, "type", "hvm");
  Set(os.child("type"), "arch", "x86_64");
  if (guest.pc == nullptr) return;
  AddText(os, "kernel", Absolute(guest.pc->kernel));
  if (guest.pc->initrd.has_value()) AddText(os, "initrd", Absolute(*guest.pc->initrd));
  if (!guest.command_line.empty()) AddText(os, "cmdline", guest.command_line);
  const xml_node features = Add(root, "features");
  for (const char* feature : {"acpi", "apic"}) Add(features, feature);
}

void AddDisk(const DiskOptions& disk, char letter, xml_node devices) {
  const xml_node node = Add(devices, "disk");
  Set(node, "type", "file");
  Set(node, "device", "disk");
  const xml_node driver = Add(node, "driver");
  Set(driver, "name", "qemu");
  Set(driver, "type", "raw");
  Set(Add(node, "source"), "file", Absolute(disk.path));
  const xml_node target = Add(node, "target");
  Set(target, "dev", absl::StrCat("vd", std::string(1, letter)));
  Set(target, "bus", "virtio");
  if (disk.read_only) Add(node, "readonly");
}

// A console that is where `quire run` is, is its standard input and output.
void AddConsole(const RunningGuest& guest, const char* name, const char* target_type, xml_node devices) {
  const ConsoleTarget target = guest.pc->console.value_or(ConsoleTarget{});
  const xml_node node = Add(devices, name);
  if (target.kind == ConsoleTarget::Kind::kFile) {
    Set(node, "type", "file");
    Set(Add(node, "source"), "path", Absolute(target.PathOf(guest.number)));
  } else {
    Set(node, "type", "stdio");
  }
  const xml_node port = Add(node, "target");
  if (target_type != nullptr) Set(port, "type", target_type);
  Set(port, "port", "0");
}

void AddBalloon(const PcOptions& pc, xml_node devices) {
  const xml_node balloon = Add(devices, "memballoon");
  Set(balloon, "model", pc.balloon_offer.exists ? "virtio" : "none");
  if (!pc.balloon_offer.exists) return;
  if (pc.balloon_offer.deflates_on_oom) Set(balloon, "autodeflate", "on");
  if (pc.balloon_offer.reports_free_pages) Set(balloon, "freePageReporting", "on");
  const int64_t period = absl::ToInt64Seconds(pc.statistics_period);
  if (period > 0) Set(Add(balloon, "stats"), "period", absl::StrCat(period));
}

void AddDevices(const RunningGuest& guest, xml_node root) {
  const xml_node devices = Add(root, "devices");
  if (guest.pc == nullptr) return Set(Add(devices, "memballoon"), "model", "none");
  char letter = 'a';
  for (const DiskOptions& disk : guest.pc->disks) AddDisk(disk, letter++, devices);
  AddConsole(guest, "serial", nullptr, devices);
  AddConsole(guest, "console", "serial", devices);
  const xml_node rng = Add(devices, "rng");
  Set(rng, "model", "virtio");
  AddText(rng, "backend", "/dev/urandom");
  Set(rng.child("backend"), "model", "random");
  AddBalloon(*guest.pc, devices);
}

std::string Made(const RunningGuest& guest) {
  const DomainDocument document = DomainDocument::Empty();
  const xml_node root = document.root();
  Set(root, "type", guest.emulated ? "qemu" : "kvm");
  Set(root, "id", absl::StrCat(guest.number + 1));
  AddText(root, "name", guest.name);
  if (!guest.runs.empty()) AddText(root, "description", absl::StrCat("A guest of quire run ", guest.runs));
  SetKib(Add(root, "memory"), guest.memory);
  SetKib(Add(root, "currentMemory"), guest.memory - guest.balloon);
  if (guest.pool_limit.has_value()) SetLimits(guest, Add(root, "memtune"));
  if (!guest.shares_pages) Add(Add(root, "memoryBacking"), "nosharepages");
  AddText(root, "vcpu", absl::StrCat(guest.vcpus));
  AddOs(guest, root);
  for (const char* event : {"on_poweroff", "on_reboot", "on_crash"}) AddText(root, event, "destroy");
  AddDevices(guest, root);
  return document.ToIndentedXml();
}

}  // namespace

absl::StatusOr<std::string> DomainXml(const RunningGuest& guest) {
  const bool described = guest.pc != nullptr && !guest.pc->domain_xml.empty();
  if (described) return Updated(guest);
  return Made(guest);
}

}  // namespace quire
