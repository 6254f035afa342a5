//! Which apps get which frames, and how many of them.

use std::collections::BTreeMap;

use policies::grant::CameraGrant;
use policies::host::AppRef;
use policies::id::CameraId;

/// What one app may have of one camera.
#[derive(Clone, Copy, Debug)]
struct Share {
    /// Frames per second at the most.
    fps: u32,
    /// Grows by `fps` with each frame; a frame goes out each time it passes the camera's rate.
    credit: u32,
    /// Whether no frame has gone out yet: the first one does at once.
    fresh: bool,
}

/// All routes.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes(BTreeMap<CameraId, BTreeMap<AppRef, Share>>);

impl Routes {
    /// What `app` may have from now on; nothing closes its routes.
    pub(super) fn set(&mut self, app: &AppRef, cameras: Vec<CameraGrant>) {
        for shares in self.0.values_mut() {
            shares.remove(app);
        }
        for CameraGrant { id, fps } in cameras {
            let share = Share { fps, credit: 0, fresh: true };
            self.0.entry(id).or_default().insert(app.clone(), share);
        }
        self.0.retain(|_, shares| !shares.is_empty());
    }

    /// The apps whose turn it is with this frame of a camera that makes `rate` frames per second. Frames are
    /// left out evenly.
    pub(super) fn due(&mut self, camera: &CameraId, rate: u32) -> Vec<AppRef> {
        let Some(shares) = self.0.get_mut(camera) else { return Vec::new() };
        shares.iter_mut().filter_map(|(app, share)| share.turn(rate).then(|| app.clone())).collect()
    }
}

impl Share {
    fn turn(&mut self, rate: u32) -> bool {
        if self.fps == 0 {
            return false;
        }
        if self.fresh {
            self.fresh = false;
            return true;
        }
        self.credit += self.fps.min(rate);
        let due = self.credit >= rate;
        if due {
            self.credit -= rate;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policies::id::{AppName, TenantId};

    fn app(name: &str) -> AppRef {
        AppRef { tenant: TenantId::new("oem").unwrap(), app: AppName::new(name).unwrap() }
    }

    fn front(fps: u32) -> Vec<CameraGrant> {
        vec![CameraGrant { id: CameraId::new("front").unwrap(), fps }]
    }

    /// Rate of the camera, rate granted, and which of ten frames go out.
    #[test]
    #[rustfmt::skip]
    fn decimation_table() {
        check(10, 10, "xxxxxxxxxx");
        check(10, 99, "xxxxxxxxxx");
        check(10,  5, "x.x.x.x.x.");
        check(10,  1, "x.........");
        check(10,  3, "x...x..x..");
        check(10,  0, "..........");
        check( 1,  1, "xxxxxxxxxx");
    }

    #[track_caller]
    fn check(rate: u32, granted: u32, expected: &str) {
        let mut routes = Routes::default();
        routes.set(&app("a"), front(granted));
        let camera = CameraId::new("front").unwrap();
        let got: String =
            (0..10).map(|_| if routes.due(&camera, rate).is_empty() { '.' } else { 'x' }).collect();
        assert_eq!(got, expected, "{granted} of {rate}");
    }

    #[test]
    fn a_route_is_replaced_and_closed() {
        let mut routes = Routes::default();
        let camera = CameraId::new("front").unwrap();
        routes.set(&app("a"), front(10));
        routes.set(&app("b"), front(10));
        assert_eq!(routes.due(&camera, 10), [app("a"), app("b")]);
        routes.set(&app("a"), Vec::new());
        assert_eq!(routes.due(&camera, 10), [app("b")]);
        assert!(routes.due(&CameraId::new("rear").unwrap(), 10).is_empty());
        routes.set(&app("b"), Vec::new());
        assert!(routes.0.is_empty());
    }
}
