// What a balloon offers to its guest's driver.
#ifndef QUIRE_VMM_VIRTIO_BALLOON_OFFER_H_
#define QUIRE_VMM_VIRTIO_BALLOON_OFFER_H_

namespace quire {

struct BalloonOffer {
  // Without it the device's place on the bus is empty (VIRTIO 1.2, 4.2.2.1: device id 0), and nothing of it is used.
  bool exists = true;
  // The guest may take pages from the balloon, without asking, before it runs out of memory.
  bool deflates_on_oom = true;
  // The guest may say which of its pages are free, so that they take up no memory.
  bool reports_free_pages = true;

  friend bool operator==(const BalloonOffer&, const BalloonOffer&) = default;
};

}  // namespace quire

#endif  // QUIRE_VMM_VIRTIO_BALLOON_OFFER_H_
