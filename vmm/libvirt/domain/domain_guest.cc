#include "vmm/libvirt/domain/domain_guest.h"

#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "vmm/libvirt/domain/reader.h"
#include "vmm/text.h"
#include "workloads/guest_abi.h"

namespace quire {
namespace {

using Fate = DomainReader::Fate;
using Rule = DomainReader::Rule;

constexpr absl::string_view kQemuNamespace = "http://libvirt.org/schemas/domain/qemu/1.0";
constexpr absl::string_view kHostPolicy = "how the host's CPUs and disks are shared out is the host's";
constexpr size_t kLongestName = 255;

void ReadName(DomainReader& reader, pugi::xml_node node) {
  const std::string name = reader.Text(node);
  if (absl::StripAsciiWhitespace(name).empty()) return reader.Fail(node, "<name> is empty: every domain has a name");
  if (name.size() > kLongestName)
    return reader.Fail(node, absl::StrCat("<name> is longer than ", kLongestName, " bytes"));
  if (Printable(name) != name)
    return reader.Fail(node, "<name> has a line break, or another character that is none to be read");
  reader.guest.name = reader.guest.pc.name = name;
}

void ReadVcpus(DomainReader& reader, pugi::xml_node node) {
  int most = 0;
  const std::string text = reader.Text(node);
  if (!absl::SimpleAtoi(absl::StripAsciiWhitespace(text), &most) || most < 1) {
    return reader.Fail(node, absl::StrCat("<vcpu>: \"", text, "\" is no number of vCPUs: write one from 1 on"));
  }
  const uint32_t current = reader.Number(node, "current").value_or(static_cast<uint32_t>(most));
  if (!reader.ok()) return;
  if (current < 1 || current > static_cast<uint32_t>(most)) {
    return reader.Fail(node, absl::StrCat("<vcpu current=\"", current, "\">: write one from 1 to ", most));
  }
  if (current < static_cast<uint32_t>(most))
    reader.Ignore(node, "vCPUs cannot be plugged in: the guest has those that are current");
  if (current > QUIRE_MAX_VCPUS) {
    reader.Refuse(node, absl::StrCat("a guest has at most ", QUIRE_MAX_VCPUS, " vCPUs"));
  }
  reader.guest.vcpus = static_cast<int>(std::min<uint32_t>(current, QUIRE_MAX_VCPUS));
  const bool anywhere = reader.Word(node, "placement") == "static";
  reader.IgnoreOtherAttributes(node, {"current", anywhere ? "placement" : ""},
                               "vCPUs are threads that run where the host has them run");
}

void ReadFeatures(DomainReader& reader, pugi::xml_node features) {
  constexpr Rule kRules[] = {{.name = "acpi"}, {.name = "apic"}, {.name = "pae"}};
  reader.ReadChildren(features, kRules, {Fate::kIgnored, "the guest finds what KVM offers by itself"});
}

// A guest that is off, or wants to begin again, has ended.
void ReadLifecycle(DomainReader& reader, pugi::xml_node node) {
  if (reader.Text(node) != "destroy") reader.Ignore(node, "a guest that powers off, resets or crashes has ended");
}

void ReadPowerManagement(DomainReader& reader, pugi::xml_node pm) {
  for (const pugi::xml_node state : pm.children()) {
    if (reader.Word(state, "enabled") == "yes") reader.Ignore(state, "the guest cannot suspend");
  }
}

void ReadSecurityLabel(DomainReader& reader, pugi::xml_node label) {
  if (reader.Word(label, "type") != "none")
    reader.Ignore(label, "the guest is confined as the user's other processes are");
}

constexpr Rule kElements[] = {
    {.name = "name", .read = ReadName},
    {.name = "uuid"},
    {.name = "title"},
    {.name = "description"},
    {.name = "metadata"},
    {.name = "memory", .read = ReadMemory},
    {.name = "currentMemory", .read = ReadCurrentMemory},
    {.name = "maxMemory",
     .fate = Fate::kIgnored,
     .why = "memory cannot be plugged in: the guest has what <memory> says"},
    {.name = "memtune", .read = ReadMemtune},
    {.name = "memoryBacking", .read = ReadMemoryBacking},
    {.name = "vcpu", .read = ReadVcpus},
    {.name = "os", .read = ReadOs},
    {.name = "features", .read = ReadFeatures},
    {.name = "cpu"},  // read after <memory>
    {.name = "devices", .read = ReadDevices},
    {.name = "on_poweroff", .read = ReadLifecycle},
    {.name = "on_reboot", .read = ReadLifecycle},
    {.name = "on_crash", .read = ReadLifecycle},
    {.name = "pm", .read = ReadPowerManagement},
    {.name = "seclabel"},  // of which there may be several
    {.name = "genid", .fate = Fate::kIgnored, .why = "the guest is not told of copies of itself"},
    {.name = "bootloader", .fate = Fate::kRefused, .why = "a kernel is booted directly: name it in <os>"},
    {.name = "bootloader_args", .fate = Fate::kIgnored, .why = "a kernel is booted directly"},
    {.name = "vcpus", .fate = Fate::kIgnored, .why = "vCPUs cannot be plugged in"},
    {.name = "iothreads", .fate = Fate::kIgnored, .why = "each device has a thread of its own"},
    {.name = "iothreadids", .fate = Fate::kIgnored, .why = "each device has a thread of its own"},
    {.name = "cputune", .fate = Fate::kIgnored, .why = kHostPolicy},
    {.name = "blkiotune", .fate = Fate::kIgnored, .why = kHostPolicy},
    {.name = "numatune", .fate = Fate::kIgnored, .why = "memory comes from where the host has it"},
    {.name = "resource", .fate = Fate::kIgnored, .why = "the guest is in the cgroup of `quire run`"},
    {.name = "sysinfo", .fate = Fate::kIgnored, .why = "the guest finds no SMBIOS tables"},
    {.name = "clock", .fate = Fate::kIgnored, .why = "the guest's clocks are KVM's and the PIT, and it has no RTC"},
    {.name = "on_lockfailure", .fate = Fate::kIgnored, .why = "there are no leases"},
    {.name = "perf", .fate = Fate::kIgnored, .why = "perf events are the host's to count"},
    {.name = "idmap", .fate = Fate::kRefused, .why = "it is for containers"},
    {.name = "keywrap", .fate = Fate::kRefused, .why = "it is for s390"},
    {.name = "launchSecurity", .fate = Fate::kRefused, .why = "the guest's memory would not be encrypted"},
};

void ReadType(DomainReader& reader, pugi::xml_node root) {
  const std::string type = reader.Word(root, "type");
  if (type.empty()) return reader.Fail(root, "<domain> has no type: write <domain type='kvm'>");
  if (type == "qemu") return reader.Ignore(root, "type", "KVM runs the guest's instructions, not an emulator");
  if (type != "kvm") reader.Refuse(root, "type", absl::StrCat("Quire runs domains of type kvm, not ", type));
}

// Elements in a namespace of others.
void ReadForeign(DomainReader& reader, pugi::xml_node node) {
  const absl::string_view name = node.name();
  const absl::string_view local = name.substr(name.find(':') + 1);  // all of it without a colon
  const bool arguments =
      DomainDocument::NamespaceOf(node) == kQemuNamespace && local == "commandline" &&
      std::any_of(node.begin(), node.end(), [](pugi::xml_node child) { return absl::EndsWith(child.name(), "arg"); });
  if (arguments) return reader.Refuse(node, "what QEMU would make of its arguments Quire cannot know");
  reader.Ignore(node, "it is for others");
}

void ReadElements(DomainReader& reader, pugi::xml_node root) {
  reader.ReadChildren(root, kElements, {Fate::kKept, ""});
  for (const pugi::xml_node child : root.children()) {
    if (child.type() != pugi::node_element) continue;
    const bool known = std::any_of(std::begin(kElements), std::end(kElements),
                                   [&](const Rule& rule) { return rule.name == child.name(); });
    if (known) continue;
    if (DomainDocument::NamespaceOf(child).empty()) {
      reader.Ignore(child, "Quire does not know it");
    } else {
      ReadForeign(reader, child);
    }
  }
  for (const pugi::xml_node label : root.children("seclabel")) ReadSecurityLabel(reader, label);
}

// What the balloon is to take from the beginning. More than there is, or none, is all of it, as for libvirt.
void SetBalloon(DomainReader& reader, pugi::xml_node root) {
  if (!reader.has_balloon) reader.guest.pc.balloon_offer = {.deflates_on_oom = false, .reports_free_pages = false};
  const ByteCount memory = reader.guest.memory;
  const ByteCount current = PageCount::Ceil(reader.current_memory.value_or(memory)).bytes();
  if (current >= memory || current == ByteCount()) return;
  if (!reader.guest.pc.balloon_offer.exists) {
    return reader.Ignore(root.child("currentMemory"), "the guest has no balloon, and all of its memory");
  }
  reader.guest.pc.balloon = memory - current;
}

}  // namespace

absl::StatusOr<DomainReading> ReadDomain(const DomainDocument& document) {
  DomainReader reader(document);
  const pugi::xml_node root = document.root();
  ReadType(reader, root);
  ReadElements(reader, root);
  // It may change how much memory there is.
  if (const pugi::xml_node cpu = root.child("cpu")) ReadCpu(reader, cpu);
  if (!reader.ok()) return reader.status();
  if (reader.guest.name.empty()) return document.Error(root, "the domain has no <name>");
  if (!root.child("os")) return document.Error(root, "the domain has no <os>");
  if (reader.guest.memory == ByteCount()) return document.Error(root, "the domain has no <memory>");
  SetBalloon(reader, root);
  if (!reader.ok()) return reader.status();
  return DomainReading{.guest = std::move(reader.guest), .notes = reader.TakeNotes()};
}

}  // namespace quire
