// <devices>.
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "vmm/libvirt/domain/reader.h"
#include "vmm/machine/pc_shape.h"

namespace quire {
namespace {

using Fate = DomainReader::Fate;
using Rule = DomainReader::Rule;

constexpr absl::string_view kNoBus = "devices are on virtio-mmio, in an order of Quire's";
constexpr absl::string_view kUnknown = "Quire does not know it";

// --- Disks.

void ReadReadOnly(DomainReader& reader, pugi::xml_node) { reader.guest.pc.disks.back().read_only = true; }

void ReadDriver(DomainReader& reader, pugi::xml_node driver) {
  const std::string format = reader.Word(driver, "type");
  if (!format.empty() && format != "raw") {
    reader.Refuse(driver, "type",
                  absl::StrCat("a disk is a raw image: convert it by `qemu-img convert -O raw`, from ", format));
  }
  reader.IgnoreOtherAttributes(driver, {"name", "type"},
                               "requests go through the host's page cache, and discards are passed on");
}

void ReadDiskSource(DomainReader& reader, pugi::xml_node source) {
  reader.guest.pc.disks.back().path = reader.Path(source, reader.Word(source, "file"));
  constexpr Rule kRules[] = {
      {.name = "slices", .fate = Fate::kRefused, .why = "a disk is a whole file"},
      {.name = "encryption", .fate = Fate::kRefused, .why = "images are not decrypted"},
      {.name = "seclabel", .fate = Fate::kIgnored, .why = "the file's label stays as it is"},
  };
  reader.ReadChildren(source, kRules, {Fate::kIgnored, kUnknown}, /*may_repeat=*/true);
  reader.IgnoreOtherAttributes(source, {"file", "index"}, kUnknown);
}

void ReadBackingStore(DomainReader& reader, pugi::xml_node store) {
  for (const pugi::xml_node child : store.children()) {
    if (child.type() == pugi::node_element) return reader.Refuse(store, "a raw image has no backing file");
  }
}

void ReadDiskTarget(DomainReader& reader, pugi::xml_node target) {
  const std::string bus = reader.Word(target, "bus");
  const bool by_name = bus.empty() && absl::StartsWith(reader.Word(target, "dev"), "vd");
  if (bus != "virtio" && !by_name) {
    reader.Refuse(target, "bus",
                  absl::StrCat("a disk is on virtio, and not on ", bus.empty() ? "another bus" : bus,
                               ": write dev='vda' bus='virtio', and have the guest look for it there"));
  }
  reader.IgnoreOtherAttributes(target, {"dev", "bus"}, "there is nothing to put into it or take out");
}

// Drives for media that can be changed: an empty one is no loss.
void ReadDrive(DomainReader& reader, pugi::xml_node disk, absl::string_view kind) {
  if (!disk.child("source"))
    return reader.Ignore(disk, absl::StrCat("there is no ", kind, " drive, and nothing in it"));
  reader.Refuse(disk, absl::StrCat("there is no ", kind,
                                   " drive: write device='disk', bus='virtio' and <readonly/>, "
                                   "and the guest has the image as a disk"));
}

void ReadDisk(DomainReader& reader, pugi::xml_node disk) {
  const std::string device = reader.Word(disk, "device"), type = reader.Word(disk, "type");
  if (device == "cdrom" || device == "floppy") return ReadDrive(reader, disk, device);
  if (device == "lun") return reader.Refuse(disk, "device", "SCSI commands are not passed on to a disk of the host's");
  if (!device.empty() && device != "disk") {
    return reader.Fail(disk, absl::StrCat("<disk device=\"", device, "\">: write disk, cdrom, floppy or lun"));
  }
  if (!type.empty() && type != "file") {
    return reader.Refuse(disk, "type",
                         absl::StrCat("a disk is a regular file of the host's, of type file and not ", type));
  }
  if (!disk.child("target")) return reader.Fail(disk, "<disk> has no <target>: write <target dev='vda' bus='virtio'/>");
  if (!disk.child("source")) return reader.Refuse(disk, "it has no <source file='...'/>");
  if (reader.guest.pc.disks.size() == kMostDisks) {
    return reader.Refuse(disk, absl::StrCat("a guest has room for ", kMostDisks, " disks"));
  }
  constexpr Rule kRules[] = {
      {.name = "driver", .read = ReadDriver},
      {.name = "source", .read = ReadDiskSource},
      {.name = "backingStore", .read = ReadBackingStore},
      {.name = "target", .read = ReadDiskTarget},
      {.name = "readonly", .read = ReadReadOnly},
      {.name = "alias"},
      {.name = "transient", .fate = Fate::kRefused, .why = "what the guest writes stays in the image: give it a copy"},
      {.name = "encryption", .fate = Fate::kRefused, .why = "images are not decrypted"},
      {.name = "shareable", .fate = Fate::kIgnored, .why = "who writes to an image has it for itself"},
      {.name = "serial", .fate = Fate::kIgnored, .why = "a disk's serial is the name of its file"},
      {.name = "address", .fate = Fate::kIgnored, .why = kNoBus},
      {.name = "boot", .fate = Fate::kIgnored, .why = "a kernel is booted, and no disk"},
      {.name = "iotune", .fate = Fate::kIgnored, .why = "requests are not throttled"},
      {.name = "mirror", .fate = Fate::kIgnored, .why = "a copy that libvirt makes is not Quire's to go on with"},
  };
  reader.guest.pc.disks.emplace_back();
  reader.ReadChildren(disk, kRules, {Fate::kIgnored, kUnknown});
  reader.IgnoreOtherAttributes(disk, {"type", "device"}, kUnknown);
}

// --- Consoles.

constexpr Rule kCharacterDeviceRules[] = {
    {.name = "source"},
    {.name = "target"},
    {.name = "alias"},
    {.name = "protocol"},
    {.name = "address", .fate = Fate::kIgnored, .why = kNoBus},
    {.name = "log", .fate = Fate::kIgnored, .why = "write type='file' for the console to go to a file"},
};

// Where a console leads, that of `node`.
void ReadWhereTo(DomainReader& reader, pugi::xml_node node) {
  const std::string type = reader.Word(node, "type");
  const pugi::xml_node source = node.child("source");
  reader.ReadChildren(node, kCharacterDeviceRules, {Fate::kIgnored, kUnknown}, /*may_repeat=*/true);
  if (type == "file") {
    const std::string path = reader.Path(source ? source : node, reader.Word(source, "path"));
    if (absl::StrContains(path, "%d")) reader.Refuse(source, "path", "Quire would write the guest's number for %d");
    const bool append = reader.Switch(source, "append", false);
    reader.guest.pc.console = ConsoleTarget{.kind = ConsoleTarget::Kind::kFile,
                                            .path = path,
                                            .how = append ? WhereThereIsOne::kAppend : WhereThereIsOne::kReplace};
  } else if (type == "null") {
    reader.guest.pc.console = ConsoleTarget{.kind = ConsoleTarget::Kind::kFile, .path = "/dev/null"};
  } else if (type == "pty") {
    reader.Ignore(node, "type",
                  "no pseudo-terminal is made: the console is where `quire run` is, or as --console says");
  } else if (type != "stdio") {
    reader.Ignore(node, "type", "the console is where `quire run` is, or as --console says");
  }
}

bool IsOnSerialPort(DomainReader& reader, pugi::xml_node target) {
  const std::string type = reader.Word(target, "type");
  const std::optional<uint32_t> port = reader.Number(target, "port");
  return port.value_or(0) == 0 && (type.empty() || type == "isa-serial" || type == "serial");
}

void ReadSerial(DomainReader& reader, pugi::xml_node serial) {
  if (reader.has_serial_port || !IsOnSerialPort(reader, serial.child("target"))) {
    return reader.Ignore(serial, "the guest has one serial port, COM1");
  }
  reader.has_serial_port = true;
  ReadWhereTo(reader, serial);
}

// The first console on a serial port is that port: libvirt writes it twice. What goes to hvc0 leads to the same place.
void ReadConsole(DomainReader& reader, pugi::xml_node console) {
  const std::string type = reader.Word(console.child("target"), "type");
  const bool first = !console.previous_sibling("console");
  if (type != "virtio" && !IsOnSerialPort(reader, console.child("target"))) {
    return reader.Ignore(console, "the guest has one serial port, and hvc0");
  }
  if (type != "virtio" && first && console.parent().child("serial")) return;
  if (reader.has_serial_port || console.parent().child("serial")) {
    return reader.Ignore(console, "it leads where the serial port does");
  }
  reader.has_serial_port = true;
  ReadWhereTo(reader, console);
}

// --- Entropy and the balloon.

void ReadRngBackend(DomainReader& reader, pugi::xml_node backend) {
  const std::string model = reader.Word(backend, "model"), file = reader.Text(backend);
  const bool host =
      model == "builtin" || (model == "random" && (file.empty() || file == "/dev/urandom" || file == "/dev/random"));
  if (!host) reader.Ignore(backend, "entropy comes from the host's getrandom(2)");
}

void ReadRng(DomainReader& reader, pugi::xml_node rng) {
  if (std::exchange(reader.has_rng, true)) return reader.Ignore(rng, "the guest has one source of entropy");
  if (reader.Word(rng, "model") != "" && !absl::StartsWith(reader.Word(rng, "model"), "virtio")) {
    return reader.Ignore(rng, "entropy comes through virtio");
  }
  // A backend of sockets has elements in it.
  const std::string model = reader.Word(rng.child("backend"), "model");
  if (model == "egd") reader.Ignore(rng.child("backend"), "entropy comes from the host's getrandom(2)");
  const Rule rules[] = {
      {.name = "backend", .read = model == "egd" ? nullptr : ReadRngBackend},
      {.name = "alias"},
      {.name = "rate", .fate = Fate::kIgnored, .why = "entropy is not rationed"},
      {.name = "driver", .fate = Fate::kIgnored, .why = kNoBus},
      {.name = "address", .fate = Fate::kIgnored, .why = kNoBus},
  };
  reader.ReadChildren(rng, rules, {Fate::kIgnored, kUnknown});
}

void ReadBalloonStatistics(DomainReader& reader, pugi::xml_node stats) {
  reader.guest.pc.statistics_period = absl::Seconds(reader.Number(stats, "period").value_or(0));
}

void ReadBalloon(DomainReader& reader, pugi::xml_node balloon) {
  reader.has_balloon = true;
  const std::string model = reader.Word(balloon, "model");
  if (model == "xen") return reader.Refuse(balloon, "model", "a balloon is virtio's, or none");
  if (model != "none" && !absl::StartsWith(model, "virtio")) {
    return reader.Fail(balloon, absl::StrCat("<memballoon model=\"", model, "\">: write virtio or none"));
  }
  reader.guest.pc.balloon_offer = {.exists = model != "none",
                                   .deflates_on_oom = reader.Switch(balloon, "autodeflate", false),
                                   .reports_free_pages = reader.Switch(balloon, "freePageReporting", false)};
  constexpr Rule kRules[] = {
      {.name = "stats", .read = ReadBalloonStatistics},
      {.name = "alias"},
      {.name = "driver", .fate = Fate::kIgnored, .why = kNoBus},
      {.name = "address", .fate = Fate::kIgnored, .why = kNoBus},
  };
  reader.ReadChildren(balloon, kRules, {Fate::kIgnored, kUnknown});
  reader.IgnoreOtherAttributes(balloon, {"model", "autodeflate", "freePageReporting"}, kUnknown);
}

// --- All of them.

// In the order of libvirt's documentation. Refused is what the guest's data, memory or secrets lie in.
constexpr Rule kDevices[] = {
    {.name = "disk", .read = ReadDisk},
    {.name = "serial", .read = ReadSerial},
    {.name = "console", .read = ReadConsole},
    {.name = "rng", .read = ReadRng},
    {.name = "memballoon"},  // which may be there once
    {.name = "emulator", .fate = Fate::kIgnored, .why = "Quire runs the guest"},
    {.name = "filesystem", .fate = Fate::kRefused, .why = "directories of the host are not shared with guests"},
    {.name = "controller", .fate = Fate::kIgnored, .why = kNoBus},
    {.name = "lease", .fate = Fate::kRefused, .why = "nobody would hold the lock that guards its disks"},
    {.name = "hostdev", .fate = Fate::kRefused, .why = "devices of the host are not passed through to guests"},
    {.name = "redirdev", .fate = Fate::kIgnored, .why = "there is no USB"},
    {.name = "redirfilter", .fate = Fate::kIgnored, .why = "there is no USB"},
    {.name = "smartcard", .fate = Fate::kRefused, .why = "there is no smart card"},
    {.name = "interface", .fate = Fate::kIgnored, .why = "there is no network card: the guest has no network"},
    {.name = "input", .fate = Fate::kIgnored, .why = "there is no keyboard and no pointer: the guest has its console"},
    {.name = "hub", .fate = Fate::kIgnored, .why = "there is no USB"},
    {.name = "graphics", .fate = Fate::kIgnored, .why = "there is no display: the guest has its console"},
    {.name = "video", .fate = Fate::kIgnored, .why = "there is no display: the guest has its console"},
    {.name = "parallel", .fate = Fate::kIgnored, .why = "there is no parallel port"},
    {.name = "channel", .fate = Fate::kIgnored, .why = "no agent of the guest's is spoken to"},
    {.name = "sound", .fate = Fate::kIgnored, .why = "there is no sound"},
    {.name = "audio", .fate = Fate::kIgnored, .why = "there is no sound"},
    {.name = "watchdog", .fate = Fate::kIgnored, .why = "there is no watchdog"},
    {.name = "tpm", .fate = Fate::kRefused, .why = "there is no TPM, and what it keeps would be missing"},
    {.name = "nvram", .fate = Fate::kIgnored, .why = "a PC has none"},
    {.name = "panic", .fate = Fate::kIgnored, .why = "what a guest says at its end is on its console"},
    {.name = "shmem", .fate = Fate::kRefused, .why = "guests share no memory that they write to"},
    {.name = "memory", .fate = Fate::kRefused, .why = "memory cannot be plugged in: add it to <memory>"},
    {.name = "iommu", .fate = Fate::kIgnored, .why = "devices reach all of the guest's memory"},
    {.name = "vsock", .fate = Fate::kIgnored, .why = "there is no vsock"},
    {.name = "crypto", .fate = Fate::kIgnored, .why = "the guest's CPU does that"},
    {.name = "pstore", .fate = Fate::kIgnored, .why = "what a guest says at its end is on its console"},
};

}  // namespace

void ReadDevices(DomainReader& reader, pugi::xml_node devices) {
  reader.ReadChildren(devices, kDevices, {Fate::kRefused, "Quire does not know this device"}, /*may_repeat=*/true);
  for (const pugi::xml_node balloon : devices.children("memballoon")) {
    if (reader.has_balloon) return reader.Fail(balloon, "there is a second <memballoon>: leave one of them out");
    ReadBalloon(reader, balloon);
  }
}

}  // namespace quire
