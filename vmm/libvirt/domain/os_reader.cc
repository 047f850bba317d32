// <os>: what is booted.
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "vmm/libvirt/domain/reader.h"

namespace quire {
namespace {

using Fate = DomainReader::Fate;
using Rule = DomainReader::Rule;

constexpr absl::string_view kNoFirmware =
    "there is no firmware: a kernel is booted directly, which <kernel>, <initrd> and <cmdline> name";

void ReadType(DomainReader& reader, pugi::xml_node type) {
  const std::string word = reader.Text(type);
  if (word != "hvm") reader.Refuse(type, absl::StrCat("\"", word, "\" is run by others: Quire runs hvm"));
  const std::string arch = reader.Word(type, "arch");
  if (!arch.empty() && arch != "x86_64") {
    reader.Refuse(type, "arch", absl::StrCat("a guest of Quire's is an x86_64, and no ", arch));
  }
  reader.Ignore(type, "machine", "the machine is Quire's own: a PC whose devices are on virtio-mmio, without PCI");
}

// What stands for firmware. A kernel that is entered directly does not need it; a secure boot cannot do without.
void ReadFirmware(DomainReader& reader, pugi::xml_node node) {
  if (reader.Word(node, "secure") == "yes") {
    return reader.Refuse(node, "secure", "there is no firmware that would check signatures");
  }
  if (!node.parent().child("kernel")) return reader.Refuse(node, kNoFirmware);
  reader.Ignore(node, "the kernel is entered directly, and finds no firmware");
}

void ReadBoot(DomainReader& reader, pugi::xml_node node) {
  if (!node.parent().child("kernel")) return reader.Refuse(node, kNoFirmware);
  reader.Ignore(node, "the kernel is booted");
}

void ReadKernel(DomainReader& reader, pugi::xml_node node) {
  reader.guest.pc.kernel = reader.Path(node, reader.Text(node));
}

void ReadInitrd(DomainReader& reader, pugi::xml_node node) {
  reader.guest.pc.initrd = reader.Path(node, reader.Text(node));
}

}  // namespace

void ReadOs(DomainReader& reader, pugi::xml_node os) {
  constexpr Rule kOnce[] = {
      {.name = "type", .read = ReadType},
      {.name = "kernel", .read = ReadKernel},
      {.name = "initrd", .read = ReadInitrd},
      {.name = "cmdline", .read = [](DomainReader& r, pugi::xml_node n) { r.guest.pc.command_line = r.Text(n); }},
      {.name = "loader", .read = ReadFirmware},
      {.name = "nvram", .read = ReadFirmware},
      {.name = "firmware", .read = ReadFirmware},
      {.name = "boot"},
      {.name = "dtb", .fate = Fate::kRefused, .why = "a PC has no device tree"},
      {.name = "bootmenu", .fate = Fate::kIgnored, .why = "there is no firmware"},
      {.name = "bios", .fate = Fate::kIgnored, .why = "there is no firmware"},
      {.name = "smbios", .fate = Fate::kIgnored, .why = "the guest finds no SMBIOS tables"},
      {.name = "acpi", .fate = Fate::kIgnored, .why = "the guest's ACPI tables are Quire's own"},
  };
  reader.guest.pc.command_line = "";
  reader.ReadChildren(os, kOnce, {Fate::kIgnored, "Quire does not know it"});
  for (const pugi::xml_node boot : os.children("boot")) ReadBoot(reader, boot);
  if (!os.child("type")) return reader.Fail(os, "<os> has no <type>: write <type>hvm</type>");
  if (reader.Word(os, "firmware") != "" && os.child("kernel")) {
    reader.Ignore(os, "firmware", "the kernel is entered directly, and finds no firmware");
  }
  if (!os.child("kernel")) reader.Refuse(os, kNoFirmware);
}

}  // namespace quire
